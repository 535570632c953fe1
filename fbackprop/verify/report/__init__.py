"""The findings of a verification, and their rendering."""
