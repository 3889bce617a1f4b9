"""What workflows know of activities: their names, inputs and outputs. Imports core alone.

Every activity takes one model and gives one model, and can be repeated without harm.
"""
