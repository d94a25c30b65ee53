"""One module a screen, and the dialogs. A screen shows the picture and asks the application to act."""
