"""`python -m cloister.appliance`."""

from cloister.appliance.main import main

if __name__ == "__main__":
    main()
