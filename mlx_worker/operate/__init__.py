"""What an operator does with a node that runs: look, ask, command. [front]"""
