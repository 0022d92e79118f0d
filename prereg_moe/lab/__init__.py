"""The lab: everything that touches a model. It makes evidence and never sees a verdict."""
