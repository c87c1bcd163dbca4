"""A local web page over run directories (`spiral view`).

    app         the HTTP routes that the page calls, as a FastAPI application
    access      who may ask: the token, the host, the origin
    serving     the port, the address with the token, the browser
    run         a run as its files tell it: status, settings, metrics, notices
    episodes    a table of a run's episodes: filters, search, sorting, pages
    replay      one episode, turn by turn
    drawings    a state as the page draws it
    evaluations what a run's evaluations found
    sessions    games of a person against a checkpoint; `opponent` is the process that holds the model

It reads the files of the runs and nothing else, also while a run goes on, and never loads torch: a model that a person
plays against lives in a process of its own. The page is in `assets/`.
"""
