"""Side effects: a class per thing touched, its dependencies given in. `interface` is what workflows see."""
