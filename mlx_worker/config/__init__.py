"""The configuration: one TOML file, checked and typed. [both]"""
