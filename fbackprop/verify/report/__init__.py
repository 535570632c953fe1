"""The findings of a verification, and how they are rendered."""
