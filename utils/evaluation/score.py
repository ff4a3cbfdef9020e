"""`python -m utils.evaluation.score`: masks under every protocol (`dataset.scoring`)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("dataset.scoring", run_name="__main__")
