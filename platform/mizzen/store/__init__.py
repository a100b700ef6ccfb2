"""The model store and the gate before it: what is published, and how it is read back."""
