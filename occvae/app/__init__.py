"""The page of `occvae app`: drop an image, turn the mesh, download it.

`service` computes, `results` makes views, tables and files, `tasks` runs one piece of work at a
time, `page` is the page and the HTTP API, and `server` starts it. Only the last two import gradio.
"""
