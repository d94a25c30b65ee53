"""Parts of the screens. They show what they are given and ask nobody."""
