defmodule Caravan.LinkMap.Matrix do
  # Pure. The state of the link of each pair of nodes, from the replies of the nodes.
  @moduledoc false

  @typedoc "The connections that a node has and wants to have, or `nil` if it has not replied."
  @type view ::
          %{visible: [String.t()], hidden: [String.t()], wanted: :all | [String.t()]} | nil

  @typedoc """
    * `:node`: the node that has asked;
    * `:nodes`: all nodes in the order of their names, and whether each was asked and has replied. Only connected nodes are
      asked. The other nodes are known from the replies;
    * `:links`: one entry for each pair of nodes, in the order of `:nodes`. In a `"one_sided"`
      entry, the node that has the link comes first.
  """
  @type t :: %{
          node: String.t(),
          nodes: [%{node: String.t(), asked: boolean, replied: boolean}],
          links: [%{nodes: [String.t()], state: state}]
        }

  @typedoc """
    * `"link"`, `"hidden"`: the nodes are connected, as visible or as hidden nodes. Both say so, or the only one that has replied;
    * `"one_sided"`: both nodes have replied, and only one has the link;
    * `"missing"`: no node that has replied has the link, and at least one wants it;
    * `"not_wanted"`: no node that has replied has the link or wants it, because of the option `links: k`;
    * `"no_reply"`: neither of the two has replied.
  """
  @type state :: String.t()

  @spec new(String.t(), %{String.t() => view}) :: t
  def new(node, views) do
    links = Map.new(views, fn {name, view} -> {name, links(view)} end)
    others = for {_name, %{} = view} <- links, {name, _type} <- view, do: name
    nodes = Enum.uniq(Map.keys(views) ++ others) |> Enum.sort()

    %{
      node: node,
      nodes:
        for(
          name <- nodes,
          do: %{node: name, asked: is_map_key(views, name), replied: links[name] != nil}
        ),
      links: nodes |> pairs(links) |> Enum.map(&if_wanted(&1, views))
    }
  end

  @doc """
  Returns the nodes that lack links to other nodes of their group, with the names that each of them lacks.

  Links that neither of the two nodes wants are not among them, and neither are nodes that have not replied.
  """
  @spec lacking(groups :: [[String.t()]], %{String.t() => view}) :: [
          {String.t(), [String.t(), ...]}
        ]
  def lacking(groups, views) do
    for {name, %{} = view} <- Enum.sort(views),
        others = for(group <- groups, name in group, other <- group, uniq: true, do: other),
        links = Map.new(view.visible ++ view.hidden, &{&1, []}),
        [_ | _] = lacks <- [for(other <- others, lacks?(name, other, links, views), do: other)],
        do: {name, lacks}
  end

  defp lacks?(name, other, links, views) do
    other != name and not is_map_key(links, other) and
      (wants?(views[name], other) or wants?(views[other], name))
  end

  @doc "Returns the number of links in each state."
  @spec counts(t) :: %{state => pos_integer}
  def counts(matrix), do: Enum.frequencies_by(matrix.links, & &1.state)

  @doc """
  Returns a text with the number of nodes, the number of links, and the number of wanted links.

  A link is unknown if neither of its nodes has replied. Such links are counted separately, because nothing is wrong with
  them as far as this node knows.
  """
  @spec summary(t) :: String.t()
  def summary(%{nodes: nodes, links: links} = matrix) do
    counts = counts(matrix)
    connected = Map.get(counts, "link", 0) + Map.get(counts, "hidden", 0)
    unknown = Map.get(counts, "no_reply", 0)
    wanted = length(links) - Map.get(counts, "not_wanted", 0) - unknown
    "#{length(nodes)} nodes, #{connected} of #{wanted} links#{unknown(unknown)}"
  end

  defp unknown(0), do: ""
  defp unknown(1), do: ", and 1 unknown link"
  defp unknown(count), do: ", and #{count} unknown links"

  defp if_wanted(%{state: "missing", nodes: [a, b]} = link, views) do
    if wants?(views[a], b) or wants?(views[b], a),
      do: link,
      else: %{link | state: "not_wanted"}
  end

  defp if_wanted(link, _views), do: link

  defp wants?(nil, _node), do: false
  defp wants?(%{wanted: :all}, _node), do: true
  defp wants?(%{wanted: wanted}, node), do: node in wanted

  defp links(nil), do: nil

  defp links(view) do
    visible = for name <- view.visible, into: %{}, do: {name, "link"}
    hidden = for name <- view.hidden, into: %{}, do: {name, "hidden"}
    Map.merge(visible, hidden)
  end

  defp pairs([], _links), do: []

  defp pairs([first | rest], links) do
    for(second <- rest, do: pair(first, second, links[first], links[second])) ++
      pairs(rest, links)
  end

  defp pair(first, second, nil, nil), do: link([first, second], "no_reply")
  defp pair(first, second, view, nil), do: link([first, second], view[second] || "missing")
  defp pair(first, second, nil, view), do: link([first, second], view[first] || "missing")

  defp pair(first, second, of_first, of_second) do
    case {of_first[second], of_second[first]} do
      {nil, nil} -> link([first, second], "missing")
      {_state, nil} -> link([first, second], "one_sided")
      {nil, _state} -> link([second, first], "one_sided")
      {"link", "link"} -> link([first, second], "link")
      _ -> link([first, second], "hidden")
    end
  end

  defp link(nodes, state), do: %{nodes: nodes, state: state}
end
