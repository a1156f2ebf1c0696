"""The layers networks are built of, by family, with torch's names, parameters and defaults."""
