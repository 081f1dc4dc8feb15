"""The colours of all pictures."""

# Okabe and Ito's blue and orange: told apart from each other and from the greys in every kind of
# colour vision, and by their lightness in print.
BLUE, ORANGE, PALE = "#0072B2", "#E69F00", "#C9DCE8"

INK, GREY, LIGHT = "#222222", "#666666", "#DDDDDD"
