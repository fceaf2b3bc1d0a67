"""The functions of `import jaxplay`, which the command line calls too."""
