"""kdjax: one program trains every student of a distillation ablation."""

__version__ = "0.1.0"
