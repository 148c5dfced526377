"""Where pictures come from: folders, files, lists, links and datasets."""
