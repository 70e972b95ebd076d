"""What is measured: a node, its peers, and the engine alone. Each is a process. [bench]"""
