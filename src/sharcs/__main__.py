"""The command as a module, which launchers of several processes ask for: ``torchrun -m sharcs``."""

from sharcs_cli.app import main

if __name__ == "__main__":
    main()
