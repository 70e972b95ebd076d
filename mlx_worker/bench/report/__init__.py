"""What was measured, written as tables, charts and JSON. [bench]"""
