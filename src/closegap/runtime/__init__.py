"""Networks that run: as differentiable torch callables, and as the ONNX file itself.

The one place that knows devices and dtypes.
"""
