"""The gateway's link to microcontrollers: frames over UART, USB-CDC and RS-485."""
