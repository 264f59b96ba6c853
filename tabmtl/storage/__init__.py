"""Safe files: what a model keeps is declared once, written whole, and checked before anything is built from it."""
