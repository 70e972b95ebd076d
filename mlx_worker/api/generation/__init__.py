"""One generation over HTTP: begin the choices, relay the output, account for it. [front]"""
