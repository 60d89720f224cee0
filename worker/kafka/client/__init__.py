"""All that reaches into kafka-python's private parts: the columnar client, and what is mended of the plain one."""
