"""The loads, a family a file; `catalog` names them. They run in the load's process. [bench]"""
