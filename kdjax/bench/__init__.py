"""What the fused grid costs on the machine at hand, beside its alternatives."""
