"""The page at `/`: its files, its live stream and the history of its charts. [front]"""
