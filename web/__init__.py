"""The demo in the browser (`demo.py --web`)."""
