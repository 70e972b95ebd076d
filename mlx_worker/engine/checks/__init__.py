"""Check requests, texts and the results of the device.

[child]
"""
