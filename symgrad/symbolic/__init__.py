"""SymPy's expressions as functions of arrays, with everything that follows from IR.

``order`` puts the subexpressions in order, each once; ``emit`` computes them one by one in a
trace, ``table`` says by what; ``formulas`` has the function that users call.
"""
