"""Networks from other libraries, and for them; docs/interop.md shows how."""
