"""Everything HTTP: requests in, bytes out; knows no processes. [front]"""
