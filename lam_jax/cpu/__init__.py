"""What only a CPU wants: the C kernel for decode products, and scratch memory that programs keep."""
