"""The process and its surroundings: device, random numbers, distributed processes, atomic files, console."""
