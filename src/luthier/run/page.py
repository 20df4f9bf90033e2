def write_or_say(folder,say):
    pass
