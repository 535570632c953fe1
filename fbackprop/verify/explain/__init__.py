"""Why a gradient is wrong: the patterns and the edits of a program that reproduce its numbers."""
