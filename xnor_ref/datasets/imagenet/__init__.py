"""ImageNet (ILSVRC2012): photos that are decoded when they are asked for."""
