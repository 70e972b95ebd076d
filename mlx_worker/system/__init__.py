"""What the operating system has to be asked: files, priorities, streams, titles. [both]"""
