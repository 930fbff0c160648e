"""The words every other part uses: errors, verdicts, brackets, budgets, tolerances, dimensions."""
