"""Evidence made elsewhere."""
