"""All refusals as data: cases by area, run by the real command and printed as a page."""
