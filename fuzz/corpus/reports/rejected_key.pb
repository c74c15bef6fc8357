

p:78600f0.1.0A7
b 0‘:authentication_errorJhttp 401Rreq_1"