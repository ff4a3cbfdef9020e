"""`python -m utils.memory CONFIG`: the GPU memory of a training (`model.loading.memory`)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("model.loading.memory", run_name="__main__")
