"""The loads, a module for each kind; `catalog` names them.

They run in the process of the load. [bench]
"""
