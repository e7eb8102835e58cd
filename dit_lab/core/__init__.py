"""What every other part stands on: types, random numbers, paths of diffusion, processes, costs."""
