"""An agent outside its run: exported, loaded from any kind of folder, and answering rows of one's own."""
