"""Recipes: functions `recipe(...)` that return a `Recipe`, a file each; their parameters are what a user may choose."""
