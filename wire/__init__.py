"""What crosses between the processes of Journeyman: messages, signatures, tensors, one MQTT link.

Imports no sibling package.  `PROTOCOL.md` beside this file is the specification.
"""
