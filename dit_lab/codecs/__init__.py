"""Codecs: conversion of pixels to the latents of the model, and back."""
