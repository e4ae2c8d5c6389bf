"""Modules over the ops, named as users know them."""
