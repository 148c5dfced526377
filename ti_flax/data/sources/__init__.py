"""Where images come from: folders, files, lists, links and datasets."""
